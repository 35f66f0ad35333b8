// Every word of the page, in English and Chinese. `{n}` is filled in.
export const WORDS = {
  en: {
    loading: "Loading…", appearance: "Appearance", health: "Health", posture: "Posture",
    surveyTitle: "Before you start", surveyWhy: "A few questions about your taste and about you. They take two minutes and are asked once.",
    aboutObject: "What you like", aboutPerson: "About you", start: "Start", optional: "optional", choose: "Please answer the marked questions.",
    photo: "Photo to review", photoAlt: "Photo {n}", meshAlt: "Photo {n} with the recovered body mesh", mesh: "Mesh",
    photoMissing: "This photo cannot be shown.", meshMissing: "No mesh was found for this photo.",
    place: "Photo {n} of {m}", placeDone: "Photo {n} of {m} ✓", scale: "From 0, the lowest, to 10, the highest", score: "{d}: {v} of 10", draft: "Draft", predicted: "Prediction", cantTell: "Can’t tell", toDraft: "Back to {v}",
    comment: "Comment", commentHint: "optional", previous: "Previous", next: "Next", undo: "Undo",
    saveNext: "Save and next", confirm: "Agree and next", reviewed: "{n} of {m} reviewed",
    saved: "Saved", saving: "Saving…", offline: "Offline, kept here: {n}", stopped: "Link no longer valid, kept here: {n}", other: "Another link is open, kept here: {n}", otherWhy: "Somebody else’s link was opened in this browser. Open your own link again and your answers are saved.",
    refused: "Not taken: {why}", thumbs: "Are these scores right for you?", yes: "Yes", no: "No", thumbUp: "Yes, right for me", thumbDown: "No, not for me",
    which: { appearance: "Which of these two looks better to you?", health: "Which of these two looks healthier to you?", posture: "Which of these two has the better posture?" },
    this: "This one", neither: "No difference", endTitle: "All done. Thank you!", endText: "Every answer is saved. You can still go back and change them.",
    sendingTitle: "One moment, please", sendingText: "Still to be saved: {n}. Please keep this page open.",
    leftTitle: "You reached the end", leftText: "Not reviewed yet: {n}.", emptyTitle: "Nothing to review now", emptyText: "Come back later with the same link.",
    lookAgain: "Go through them", keyboard: "Keyboard", close: "Close", undone: "Taken back",
    keys: [["↑ ↓", "choose a dimension"], ["← →", "move its score by 0.1"], ["Shift ← →", "by a whole point"], ["X", "can’t tell"], ["D", "back to the draft"], ["Enter", "save and go to the next"], ["N  P", "next, previous, without saving"], ["U", "take back the answer to this photo, else the last one"], ["M", "mesh on or off"], ["C", "comment (Esc leaves it)"], ["+  −", "scores are right for you, or not"], ["A  B  0", "this one, that one, no difference"], ["L", "English or Chinese"], ["?", "this help"]],
  },
  zh: {
    loading: "加载中…", appearance: "外观", health: "健康", posture: "体态",
    surveyTitle: "开始之前", surveyWhy: "几个关于您的偏好和您本人的问题，约两分钟，只需填写一次。",
    aboutObject: "您的偏好", aboutPerson: "关于您", start: "开始", optional: "选填", choose: "请回答标出的问题。",
    photo: "待评审的照片", photoAlt: "照片 {n}", meshAlt: "照片 {n} 及其人体网格", mesh: "网格",
    photoMissing: "无法显示此照片。", meshMissing: "此照片没有人体网格。",
    place: "第 {n} 张，共 {m} 张", placeDone: "第 {n} 张，共 {m} 张 ✓", scale: "0 分最低，10 分最高", score: "{d}：{v} 分（满分 10）", draft: "草稿", predicted: "预测", cantTell: "无法判断", toDraft: "恢复为 {v}",
    comment: "评论", commentHint: "选填", previous: "上一张", next: "下一张", undo: "撤销",
    saveNext: "保存并继续", confirm: "同意并继续", reviewed: "已评审 {n} / {m}",
    saved: "已保存", saving: "保存中…", offline: "离线，已暂存 {n} 条", stopped: "链接已失效，已暂存 {n} 条", other: "打开了其他链接，已暂存 {n} 条", otherWhy: "此浏览器打开了他人的链接。请重新打开您自己的链接，您的回答随即保存。",
    refused: "未被接受：{why}", thumbs: "这些分数符合您的看法吗？", yes: "符合", no: "不符合", thumbUp: "符合", thumbDown: "不符合",
    which: { appearance: "您觉得哪一位外观更好？", health: "您觉得哪一位看起来更健康？", posture: "您觉得哪一位体态更好？" },
    this: "选这张", neither: "没有区别", endTitle: "全部完成，谢谢！", endText: "所有回答都已保存，您仍可返回修改。",
    sendingTitle: "请稍候", sendingText: "还有 {n} 条回答尚未保存，请不要关闭此页。",
    leftTitle: "已到最后", leftText: "还有 {n} 张照片未评审。", emptyTitle: "目前没有需要评审的照片", emptyText: "请稍后使用同一链接再来。",
    lookAgain: "重新浏览", keyboard: "键盘操作", close: "关闭", undone: "已撤销",
    keys: [["↑ ↓", "选择维度"], ["← →", "分数加减 0.1"], ["Shift ← →", "加减 1 分"], ["X", "无法判断"], ["D", "恢复草稿分数"], ["Enter", "保存并到下一张"], ["N  P", "下一张、上一张（不保存）"], ["U", "撤销对此照片的回答，否则撤销上一个"], ["M", "显示或隐藏网格"], ["C", "评论（Esc 离开）"], ["+  −", "赞同、不赞同"], ["A  B  0", "选左、选右、没有区别"], ["L", "英文或中文"], ["?", "本帮助"]],
  },
};

let language = localStorage.getItem("physique:language") || (navigator.language.startsWith("zh") ? "zh" : "en");

export const spoken = () => language;

export function speak(next) {
  language = next;
  localStorage.setItem("physique:language", next);
}

export function word(name, fill = {}) {
  const found = WORDS[language][name];
  return typeof found === "string" ? found.replace(/\{(\w+)\}/g, (_, key) => fill[key] ?? "") : found;
}

// Fill every element that names its word.
export function label(root = document) {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const each of root.querySelectorAll("[data-word]")) each.textContent = word(each.dataset.word);
  for (const each of root.querySelectorAll("[data-label]")) {
    each.setAttribute("aria-label", word(each.dataset.label));
    if (each.tagName === "BUTTON") each.title = word(each.dataset.label);
  }
}
