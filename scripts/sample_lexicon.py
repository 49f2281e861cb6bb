"""Words of the sample product corpus: nouns by class, attributes and sentence patterns in ten languages."""

LANGUAGES = ("en", "de", "fr", "es", "it", "nl", "pl", "ru", "ja", "zh")

# One noun a line in the order of LANGUAGES. A word that stands under several classes is meant to: a chain
# is a car part or a necklace, a pump feeds fuel or is worn, and only its company tells.
_NOUNS = {
    "Automotive": """
    car|Auto|voiture|coche|auto|auto|samochód|автомобиль|車|汽车
    truck|LKW|camion|camión|camion|vrachtwagen|ciężarówka|грузовик|トラック|卡车
    motorcycle|Motorrad|moto|motocicleta|motocicletta|motorfiets|motocykl|мотоцикл|バイク|摩托车
    engine|Motor|moteur|motor|motore|motor|silnik|двигатель|エンジン|发动机
    chain|Kette|chaîne|cadena|catena|ketting|łańcuch|цепь|チェーン|链
    pump|Pumpe|pompe|bomba|pompa|pomp|pompa|насос|ポンプ|泵
    ring|Ring|bague|anillo|anello|ring|pierścień|кольцо|リング|环
    boot|Kofferraum|coffre|maletero|bagagliaio|kofferbak|bagażnik|багажник|トランク|后备箱
    belt|Riemen|courroie|correa|cinghia|riem|pasek|ремень|ベルト|带
    seat|Sitz|siège|asiento|sedile|stoel|fotel|сиденье|シート|座椅
    cover|Bezug|housse|funda|fodera|hoes|pokrowiec|чехол|カバー|套
    guide|Führung|guide|guía|guida|geleider|prowadnica|направляющая|ガイド|导轨
    hood|Haube|capot|capó|cofano|kap|maska|капот|フード|罩
    tank|Tank|réservoir|depósito|serbatoio|tank|zbiornik|бак|タンク|油箱
    shoe|Backe|mâchoire|zapata|ganascia|schoen|szczęka|колодка|シュー|蹄片
    sleeve|Buchse|manchon|manguito|manicotto|bus|tuleja|втулка|スリーブ|衬套
    collar|Bund|collier|collar|collare|kraag|kołnierz|хомут|カラー|卡箍
    strap|Gurt|sangle|correa|cinghia|band|pas|стяжка|ストラップ|绑带
    tire|Reifen|pneu|neumático|pneumatico|band|opona|шина|タイヤ|轮胎
    bumper|Stoßstange|pare-chocs|parachoques|paraurti|bumper|zderzak|бампер|バンパー|保险杠
    mirror|Spiegel|rétroviseur|espejo|specchio|spiegel|lusterko|зеркало|ミラー|镜
    brake|Bremse|frein|freno|freno|rem|hamulec|тормоз|ブレーキ|刹车
    wheel|Rad|roue|rueda|ruota|wiel|koło|колесо|ホイール|轮
    filter|Filter|filtre|filtro|filtro|filter|filtr|фильтр|フィルター|滤清器
    headlight|Scheinwerfer|phare|faro|faro|koplamp|reflektor|фара|ヘッドライト|大灯
    carrier|Träger|porte-charge|portador|portatutto|drager|nośnik|держатель|キャリア|架
    manual|Handbuch|manuel|manual|manuale|handleiding|instrukcja|инструкция|マニュアル|手册""",
    "Baby": """
    baby|Baby|bébé|bebé|neonato|baby|niemowlę|малыш|ベビー|婴儿
    newborn|Neugeborenes|nouveau-né|recién nacido|neonato|pasgeborene|noworodek|новорожденный|新生児|新生儿
    stroller|Kinderwagen|poussette|cochecito|passeggino|kinderwagen|wózek|коляска|ベビーカー|推车
    crib|Kinderbett|berceau|cuna|culla|ledikant|łóżeczko|кроватка|ベビーベッド|婴儿床
    bib|Latz|bavoir|babero|bavaglino|slab|śliniak|нагрудник|よだれかけ|围兜
    pacifier|Schnuller|tétine|chupete|ciuccio|fopspeen|smoczek|соска|おしゃぶり|奶嘴
    diaper|Windel|couche|pañal|pannolino|luier|pieluszka|подгузник|おむつ|尿布
    bottle|Flasche|biberon|biberón|biberon|fles|butelka|бутылочка|ボトル|奶瓶
    seat|Sitz|siège|asiento|sedile|stoel|fotel|сиденье|シート|座椅
    carrier|Trage|porte-bébé|portador|marsupio|drager|nosidełko|переноска|キャリア|背带
    blanket|Decke|couverture|manta|coperta|deken|kocyk|одеяло|毛布|毯子
    rattle|Rassel|hochet|sonajero|sonaglio|rammelaar|grzechotka|погремушка|ガラガラ|摇铃
    monitor|Monitor|moniteur|monitor|monitor|monitor|monitor|монитор|モニター|监视器
    cradle|Wiege|berceau|cuna|culla|wieg|kołyska|колыбель|ゆりかご|摇篮
    bouncer|Wippe|transat|hamaca|sdraietta|wipstoel|leżaczek|шезлонг|バウンサー|摇椅
    pump|Pumpe|pompe|bomba|pompa|pomp|laktator|молокоотсос|ポンプ|吸奶器
    ring|Ring|anneau|anillo|anello|ring|gryzak|кольцо|リング|环
    cover|Bezug|housse|funda|fodera|hoes|pokrowiec|чехол|カバー|套
    strap|Gurt|sangle|correa|cinghia|band|pas|ремешок|ストラップ|绑带
    clip|Clip|pince|clip|clip|clip|klips|зажим|クリップ|夹
    wipes|Tücher|lingettes|toallitas|salviette|doekjes|chusteczki|салфетки|おしりふき|湿巾
    swaddle|Pucktuch|lange|arrullo|fasciatoio|inbakerdoek|otulacz|пеленка|おくるみ|襁褓""",
    "Books": """
    book|Buch|livre|libro|libro|boek|książka|книга|本|书
    novel|Roman|roman|novela|romanzo|roman|powieść|роман|小説|小说
    handbook|Handbuch|manuel|manual|manuale|handboek|podręcznik|справочник|ハンドブック|手册
    guide|Führer|guide|guía|guida|gids|przewodnik|путеводитель|ガイド|指南
    manual|Handbuch|manuel|manual|manuale|handleiding|instrukcja|инструкция|マニュアル|手册
    diary|Tagebuch|journal|diario|diario|dagboek|pamiętnik|дневник|日記|日记
    atlas|Atlas|atlas|atlas|atlante|atlas|atlas|атлас|地図帳|地图集
    biography|Biografie|biographie|biografía|biografia|biografie|biografia|биография|伝記|传记
    anthology|Anthologie|anthologie|antología|antologia|bloemlezing|antologia|антология|選集|选集
    picture book|Bilderbuch|album|álbum|albo|prentenboek|obrazki|книжка|絵本|绘本
    workbook|Arbeitsbuch|cahier|cuaderno|quaderno|werkboek|zeszyt|тетрадь|ワークブック|练习册
    comic|Comic|bande dessinée|cómic|fumetto|strip|komiks|комикс|漫画|漫画
    textbook|Lehrbuch|manuel scolaire|libro de texto|libro di testo|leerboek|podręcznik|учебник|教科書|教材
    thriller|Thriller|thriller|thriller|thriller|thriller|thriller|триллер|スリラー|惊悚小说
    storybook|Märchenbuch|livre de contes|cuentos|fiabe|sprookjesboek|bajka|сказка|物語|故事书
    dictionary|Wörterbuch|dictionnaire|diccionario|dizionario|woordenboek|słownik|словарь|辞書|词典
    poetry|Gedichte|poésie|poesía|poesia|gedichten|poezja|стихи|詩集|诗集
    cookbook|Kochbuch|livre de cuisine|libro de cocina|ricettario|kookboek|przepisy|кулинария|料理本|食谱
    calendar|Kalender|calendrier|calendario|calendario|kalender|kalendarz|календарь|カレンダー|日历
    cover|Einband|couverture|cubierta|copertina|omslag|okładka|обложка|カバー|封面""",
    "Clothing": """
    dress|Kleid|robe|vestido|vestito|jurk|sukienka|платье|ドレス|连衣裙
    shirt|Hemd|chemise|camisa|camicia|overhemd|koszula|рубашка|シャツ|衬衫
    t-shirt|T-Shirt|t-shirt|camiseta|maglietta|T-shirt|koszulka|футболка|Tシャツ|T恤
    jacket|Jacke|veste|chaqueta|giacca|jas|kurtka|куртка|ジャケット|夹克
    coat|Mantel|manteau|abrigo|cappotto|mantel|płaszcz|пальто|コート|大衣
    sweater|Pullover|pull|jersey|maglione|trui|sweter|свитер|セーター|毛衣
    jeans|Jeans|jean|vaqueros|jeans|spijkerbroek|dżinsy|джинсы|ジーンズ|牛仔裤
    skirt|Rock|jupe|falda|gonna|rok|spódnica|юбка|スカート|裙子
    hoodie|Kapuzenpulli|sweat à capuche|sudadera|felpa|capuchontrui|bluza|худи|パーカー|卫衣
    trousers|Hose|pantalon|pantalón|pantaloni|broek|spodnie|брюки|ズボン|裤子
    socks|Socken|chaussettes|calcetines|calzini|sokken|skarpetki|носки|靴下|袜子
    scarf|Schal|écharpe|bufanda|sciarpa|sjaal|szalik|шарф|マフラー|围巾
    gloves|Handschuhe|gants|guantes|guanti|handschoenen|rękawiczki|перчатки|手袋|手套
    hat|Hut|chapeau|sombrero|cappello|hoed|kapelusz|шляпа|帽子|帽子
    belt|Gürtel|ceinture|cinturón|cintura|riem|pasek|ремень|ベルト|腰带
    slip|Slip|slip|braga|slip|slip|slipy|трусы|スリップ|衬裙
    tank|Trägertop|débardeur|camiseta|canotta|tanktop|top|майка|タンクトップ|背心
    bib|Latzhose|salopette|peto|salopette|tuinbroek|ogrodniczki|комбинезон|オーバーオール|背带裤
    pajamas|Schlafanzug|pyjama|pijama|pigiama|pyjama|piżama|пижама|パジャマ|睡衣
    vest|Weste|gilet|chaleco|gilet|vest|kamizelka|жилет|ベスト|马甲
    blouse|Bluse|blouse|blusa|camicetta|blouse|bluzka|блузка|ブラウス|女衫
    hood|Kapuze|capuche|capucha|cappuccio|kap|kaptur|капюшон|フード|兜帽
    collar|Kragen|col|cuello|colletto|kraag|kołnierz|воротник|カラー|衣领
    sleeve|Ärmel|manche|manga|manica|mouw|rękaw|рукав|スリーブ|袖
    costume|Kostüm|costume|disfraz|costume|kostuum|kostium|костюм|コスチューム|服装
    leggings|Leggings|legging|mallas|leggings|legging|legginsy|леггинсы|レギンス|打底裤""",
    "Jewelry": """
    ring|Ring|bague|anillo|anello|ring|pierścionek|кольцо|リング|戒指
    necklace|Halskette|collier|collar|collana|halsketting|naszyjnik|ожерелье|ネックレス|项链
    chain|Kette|chaîne|cadena|catena|ketting|łańcuszek|цепочка|チェーン|链
    bracelet|Armband|bracelet|pulsera|bracciale|armband|bransoletka|браслет|ブレスレット|手链
    earrings|Ohrringe|boucles d'oreilles|pendientes|orecchini|oorbellen|kolczyki|серьги|ピアス|耳环
    pendant|Anhänger|pendentif|colgante|ciondolo|hanger|wisiorek|кулон|ペンダント|吊坠
    watch|Uhr|montre|reloj|orologio|horloge|zegarek|часы|腕時計|手表
    brooch|Brosche|broche|broche|spilla|broche|broszka|брошь|ブローチ|胸针
    cufflinks|Manschettenknöpfe|boutons de manchette|gemelos|gemelli|manchetknopen|spinki|запонки|カフス|袖扣
    charm|Charm|breloque|amuleto|charm|bedel|zawieszka|шарм|チャーム|坠饰
    anklet|Fußkette|chaîne de cheville|tobillera|cavigliera|enkelbandje|łańcuszek|браслет|アンクレット|脚链
    band|Band|alliance|alianza|fede|band|obrączka|ремешок|バンド|指环
    clip|Clip|pince|clip|clip|clip|klips|зажим|クリップ|夹
    tiara|Diadem|diadème|tiara|tiara|tiara|tiara|тиара|ティアラ|头冠
    locket|Medaillon|médaillon|medallón|medaglione|medaillon|medalion|медальон|ロケット|盒坠
    gemstone|Edelstein|pierre précieuse|piedra preciosa|gemma|edelsteen|kamień|камень|宝石|宝石
    pearl|Perle|perle|perla|perla|parel|perła|жемчуг|パール|珍珠
    strap|Uhrband|bracelet|correa|cinturino|horlogeband|pasek|ремешок|ストラップ|表带
    collar|Collier|collier|collar|girocollo|collier|kolia|колье|カラー|项圈
    plate|Plakette|plaque|placa|piastrina|plaatje|płytka|пластина|プレート|牌""",
    "Shoes": """
    shoe|Schuh|chaussure|zapato|scarpa|schoen|but|туфли|シューズ|鞋
    sneaker|Sneaker|basket|zapatilla|sneaker|sneaker|trampki|кроссовки|スニーカー|运动鞋
    boot|Stiefel|botte|bota|stivale|laars|kozak|сапоги|ブーツ|靴子
    sandal|Sandale|sandale|sandalia|sandalo|sandaal|sandał|сандалии|サンダル|凉鞋
    pump|Pumps|escarpin|zapato de salón|décolleté|pump|czółenka|лодочки|パンプス|浅口鞋
    slipper|Hausschuh|chausson|pantufla|pantofola|pantoffel|kapeć|тапочки|スリッパ|拖鞋
    heel|Absatz|talon|tacón|tacco|hak|obcas|каблук|ヒール|高跟鞋
    loafer|Loafer|mocassin|mocasín|mocassino|loafer|mokasyn|лоферы|ローファー|乐福鞋
    clog|Clog|sabot|zueco|zoccolo|klomp|chodak|сабо|クロッグ|木底鞋
    sole|Sohle|semelle|suela|suola|zool|podeszwa|подошва|ソール|鞋底
    insole|Einlegesohle|semelle|plantilla|soletta|inlegzool|wkładka|стелька|インソール|鞋垫
    lace|Schnürsenkel|lacet|cordón|laccio|veter|sznurowadło|шнурки|靴ひも|鞋带
    flip-flop|Zehentrenner|tong|chancla|infradito|teenslipper|japonki|шлепанцы|ビーチサンダル|人字拖
    strap|Riemchen|bride|tira|cinturino|bandje|pasek|ремешок|ストラップ|绑带
    trainer|Turnschuh|basket|deportiva|scarpa da ginnastica|sportschoen|adidasy|кеды|トレーナー|训练鞋
    wedge|Keilschuh|compensée|cuña|zeppa|sleehak|koturn|танкетка|ウェッジ|坡跟鞋
    slip|Slipper|slip-on|slip-on|slip-on|instapper|wsuwane|слипоны|スリップオン|懒人鞋
    guard|Schoner|protège|protector|protezione|beschermer|ochraniacz|защита|ガード|护具
    oxford|Oxford|richelieu|oxford|oxford|oxford|oksfordy|оксфорды|オックスフォード|牛津鞋
    ballerina|Ballerina|ballerine|bailarina|ballerina|ballerina|balerinki|балетки|バレエシューズ|芭蕾鞋""",
    "Home_and_Garden": """
    lamp|Lampe|lampe|lámpara|lampada|lamp|lampa|лампа|ランプ|灯
    pillow|Kissen|coussin|cojín|cuscino|kussen|poduszka|подушка|枕|枕头
    vase|Vase|vase|jarrón|vaso|vaas|wazon|ваза|花瓶|花瓶
    curtain|Vorhang|rideau|cortina|tenda|gordijn|zasłona|штора|カーテン|窗帘
    cover|Bezug|housse|funda|fodera|hoes|pokrowiec|чехол|カバー|套
    plate|Teller|assiette|plato|piatto|bord|talerz|тарелка|プレート|盘子""",
    "Office_Products": """
    pen|Stift|stylo|bolígrafo|penna|pen|długopis|ручка|ペン|笔
    stapler|Hefter|agrafeuse|grapadora|cucitrice|nietmachine|zszywacz|степлер|ホッチキス|订书机
    folder|Ordner|classeur|carpeta|cartella|map|segregator|папка|フォルダー|文件夹
    calendar|Kalender|calendrier|calendario|calendario|kalender|kalendarz|календарь|カレンダー|日历
    clip|Klammer|trombone|clip|graffetta|clip|spinacz|скрепка|クリップ|夹
    band|Band|élastique|goma|elastico|elastiek|gumka|резинка|バンド|橡皮筋""",
    "Toys_and_Games": """
    doll|Puppe|poupée|muñeca|bambola|pop|lalka|кукла|人形|娃娃
    puzzle|Puzzle|puzzle|rompecabezas|puzzle|puzzel|puzzle|пазл|パズル|拼图
    car|Auto|voiture|coche|macchinina|auto|samochód|машинка|ミニカー|玩具车
    teddy|Teddy|ours|peluche|orsetto|knuffel|miś|мишка|ぬいぐるみ|玩具熊
    kite|Drachen|cerf-volant|cometa|aquilone|vlieger|latawiec|змей|凧|风筝
    rattle|Rassel|hochet|sonajero|sonaglio|rammelaar|grzechotka|погремушка|ガラガラ|摇铃""",
    "Computers_and_Accessories": """
    keyboard|Tastatur|clavier|teclado|tastiera|toetsenbord|klawiatura|клавиатура|キーボード|键盘
    laptop|Laptop|ordinateur|portátil|portatile|laptop|laptop|ноутбук|ノートパソコン|笔记本电脑
    mouse|Maus|souris|ratón|mouse|muis|mysz|мышь|マウス|鼠标
    monitor|Monitor|moniteur|monitor|monitor|monitor|monitor|монитор|モニター|显示器
    cable|Kabel|câble|cable|cavo|kabel|kabel|кабель|ケーブル|线
    sleeve|Hülle|housse|funda|custodia|hoes|etui|чехол|スリーブ|内胆包""",
    "Sports_and_Outdoors": """
    tent|Zelt|tente|tienda|tenda|tent|namiot|палатка|テント|帐篷
    ball|Ball|ballon|balón|palla|bal|piłka|мяч|ボール|球
    bicycle|Fahrrad|vélo|bicicleta|bicicletta|fiets|rower|велосипед|自転車|自行车
    helmet|Helm|casque|casco|casco|helm|kask|шлем|ヘルメット|头盔
    guard|Schoner|protège|protector|protezione|beschermer|ochraniacz|защита|ガード|护具
    vest|Weste|gilet|chaleco|gilet|vest|kamizelka|жилет|ベスト|马甲""",
    "Luggage_and_Travel_Gear": """
    suitcase|Koffer|valise|maleta|valigia|koffer|walizka|чемодан|スーツケース|行李箱
    backpack|Rucksack|sac à dos|mochila|zaino|rugzak|plecak|рюкзак|リュック|背包
    bag|Tasche|sac|bolsa|borsa|tas|torba|сумка|バッグ|包
    wallet|Geldbörse|portefeuille|cartera|portafoglio|portemonnee|portfel|кошелек|財布|钱包
    strap|Gurt|sangle|correa|cinghia|band|pas|ремень|ストラップ|绑带
    carrier|Träger|porte-bagages|portador|portatutto|drager|nośnik|держатель|キャリア|架""",
}

# Attributes stand in titles of every class, so that none of them gives a class away.
_ATTRIBUTES = """
    black|schwarz|noir|negro|nero|zwart|czarny|черный|ブラック|黑色
    white|weiß|blanc|blanco|bianco|wit|biały|белый|ホワイト|白色
    red|rot|rouge|rojo|rosso|rood|czerwony|красный|レッド|红色
    blue|blau|bleu|azul|blu|blauw|niebieski|синий|ブルー|蓝色
    green|grün|vert|verde|verde|groen|zielony|зеленый|グリーン|绿色
    brown|braun|marron|marrón|marrone|bruin|brązowy|коричневый|ブラウン|棕色
    pink|rosa|rose|rosa|rosa|roze|różowy|розовый|ピンク|粉色
    grey|grau|gris|gris|grigio|grijs|szary|серый|グレー|灰色
    gold|gold|or|oro|oro|goud|złoty|золотой|ゴールド|金色
    silver|silber|argent|plata|argento|zilver|srebrny|серебряный|シルバー|银色
    leather|Leder|cuir|cuero|pelle|leer|skóra|кожа|レザー|皮革
    cotton|Baumwolle|coton|algodón|cotone|katoen|bawełna|хлопок|コットン|棉
    steel|Stahl|acier|acero|acciaio|staal|stal|сталь|スチール|钢
    rubber|Gummi|caoutchouc|goma|gomma|rubber|guma|резина|ラバー|橡胶
    wool|Wolle|laine|lana|lana|wol|wełna|шерсть|ウール|羊毛
    wooden|Holz|bois|madera|legno|houten|drewno|дерево|木製|木制
    velvet|Samt|velours|terciopelo|velluto|fluweel|aksamit|бархат|ベルベット|天鹅绒
    new|neu|neuf|nuevo|nuovo|nieuw|nowy|новый|新品|全新
    vintage|vintage|vintage|vintage|vintage|vintage|vintage|винтажный|ヴィンテージ|复古
    small|klein|petit|pequeño|piccolo|klein|mały|маленький|小型|小号
    large|groß|grand|grande|grande|groot|duży|большой|大型|大号
    soft|weich|doux|suave|morbido|zacht|miękki|мягкий|ソフト|柔软
    classic|klassisch|classique|clásico|classico|klassiek|klasyczny|классический|クラシック|经典
    premium|hochwertig|haut de gamme|de calidad|pregiato|hoogwaardig|wysokiej jakości|премиум|プレミアム|高级
    handmade|handgemacht|fait main|artesanal|artigianale|handgemaakt|rękodzieło|самодельный|ハンドメイド|手工
    waterproof|wasserdicht|imperméable|impermeable|impermeabile|waterdicht|wodoodporny|водонепроницаемый|防水|防水
    elegant|elegant|élégant|elegante|elegante|elegant|elegancki|элегантный|エレガント|优雅
    light|leicht|léger|ligero|leggero|licht|lekki|легкий|軽量|轻便
    men's|Herren|homme|hombre|uomo|heren|męski|мужской|メンズ|男士
    women's|Damen|femme|mujer|donna|dames|damski|женский|レディース|女士
    children's|Kinder|enfant|niños|bambini|kinder|dziecięcy|детский|キッズ|儿童
    boys'|Jungen|garçon|niño|bambino|jongens|chłopięcy|для мальчиков|男の子|男孩
    girls'|Mädchen|fille|niña|bambina|meisjes|dziewczęcy|для девочек|女の子|女孩"""

# {h} is what is sold, {m} another thing, {a} {c} attributes. A language's first line names the thing sold
# first, its second line names it last, in the same small words: order, not words, says which is which.
_COMPOUNDS = {
    "en": """
    {h} for {m}|{h} in {a} for {c} {m}|{h}, {a}, for {c} {m}|{h} in {a} with {m} print|{h} ({a}) with {c} {m}
    {m} {h}|{m} {a} {h}|for {c} {m}: {a} {h}|with {m} print: {a} {h}|{m} design {a} {h}|{m} in {c}: {h}""",
    "de": """
    {h} für {m}|{h} für {a} {m}|{h} mit {a} {m}|{h} mit {m} Motiv
    {m}-{h}|{m} {a} {h}|für {m}: {a} {h}|mit {m} Motiv: {h}""",
    "fr": """
    {h} pour {m}|{h} {a} pour {m}|{h} avec {m} {a}|{h} motif {m}
    pour {m} : {h}|pour {m} {a}, {h}|motif {m} {a} : {h}|{m}, {h} {a}""",
    "es": """
    {h} para {m}|{h} {a} para {m}|{h} con {m} {a}|{h} estampado de {m}
    para {m}: {h}|para {m} {a}, {h}|estampado de {m} {a}: {h}|{m}, {h} {a}""",
    "it": """
    {h} per {m}|{h} {a} per {m}|{h} con {m} {a}|{h} stampa {m}
    per {m}: {h}|per {m} {a}, {h}|stampa {m} {a}: {h}|{m}, {h} {a}""",
    "nl": """
    {h} voor {m}|{h} voor {a} {m}|{h} met {a} {m}|{h} met {m} print
    {m}-{h}|{m} {a} {h}|voor {m}: {a} {h}|met {m} print: {h}""",
    "pl": """
    {h} do {m}|{h} {a} do {m}|{h} z wzorem {m}|{h} na {m} {a}
    do {m}: {h}|do {m} {a}, {h}|z wzorem {m} {a}: {h}|{m}, {h} {a}""",
    "ru": """
    {h} для {m}|{h} {a} для {m}|{h} с рисунком {m}|{h} на {m} {a}
    для {m}: {h}|для {m} {a}, {h}|с рисунком {m} {a}: {h}|{m}, {h} {a}""",
    "ja": """
    {h}（{m}用）|{h} {a}{m}用|{h}、{m}柄|{h} {a}{m}付き
    {m}用{h}|{m}用{a}{h}|{m}柄の{h}|{m}の{a}{h}""",
    "zh": """
    {h}（{m}用）|{h} {a}{m}专用|{h}，{m}图案|{h} 配{a}{m}
    {m}用{h}|{m}专用{a}{h}|{m}图案{h}|{m}{a}{h}""",
}

# Titles of books speak of anything; {p} is a given name. Other wares are at times called much the same.
_BOOK_TITLES = {
    "en": """
    The {a} {m}|{m} and {n}|How to Choose a {m}|A History of the {m}|My First {m}
    The {m} of {p}|Secrets of the {a} {m}|{p} and the {m}|A {m} in {p}|{m}, {n} & Other Stories""",
    "de": """
    {m} und {n}|Mein erstes {m}|Die Geschichte: {m}|{p} und das {m}|Alles über {m}""",
    "fr": """
    {m} et {n}|Mon premier {m}|L'histoire de {m}|{p} et {m}|Tout sur {m}""",
    "es": """
    {m} y {n}|Mi primer {m}|La historia de {m}|{p} y {m}|Todo sobre {m}""",
    "it": """
    {m} e {n}|Il mio primo {m}|La storia di {m}|{p} e {m}|Tutto su {m}""",
    "nl": """
    {m} en {n}|Mijn eerste {m}|De geschiedenis van {m}|{p} en {m}|Alles over {m}""",
    "pl": """
    {m} i {n}|Mój pierwszy {m}|Historia: {m}|{p} i {m}|Wszystko o: {m}""",
    "ru": """
    {m} и {n}|Мой первый {m}|История: {m}|{p} и {m}|Все о: {m}""",
    "ja": """
    {m}と{n}|はじめての{m}|{m}の歴史|{p}と{m}|{m}のすべて""",
    "zh": """
    {m}与{n}|我的第一个{m}|{m}的历史|{p}和{m}|关于{m}的一切""",
}
_BOOK_FORMATS = {
    "en": "Paperback|Hardcover|A Novel|2nd Edition|Audiobook",
    "de": "Taschenbuch|Gebunden|Hörbuch",
    "fr": "Broché|Relié|Édition de poche",
    "es": "Tapa dura|Tapa blanda|Bolsillo",
    "it": "Brossura|Rilegato|Tascabile",
    "nl": "Paperback|Gebonden|Luisterboek",
    "pl": "Oprawa miękka|Oprawa twarda|Audiobook",
    "ru": "Мягкая обложка|Твердый переплет|Аудиокнига",
    "ja": "文庫|単行本|ハードカバー",
    "zh": "平装|精装|有声书",
}
BY = dict(zip(LANGUAGES, "by von par de di van autor автор 著者 作者".split(), strict=True))

# Sentences of descriptions, kinds parted by a line "-": about nothing in particular, about the thing sold {h}
# and about another thing {x}. {b} brand, {s} series, {q} code, {a} {c} attributes, {i} {j} {k} numbers.
_SENTENCES = {
    "en": """
    Free shipping on orders over {i} dollars.
    Ships within {j} business days from our own warehouse.
    Made with care by {b}, a family business since 19{k}.
    Available in {a}, {c} and other versions.
    Please allow a small difference in colour because of your screen's settings.
    If you don't love it, send it back within {i} days & we'll refund you.
    The {s} line by {b} is known for quality that lasts.
    Product code {q}.
    We've sold more than {i}00 of these, and our customers rate them 4.{j} out of 5.
    Wipe clean with a damp cloth.
    Dimensions: {i} x {k} cm, weight {k} g.
    An ideal gift for birthdays, holidays or just because.
    The look is {a} and {c}, the finish is first class.
    Condition: {c}. See the pictures for details.
    {p} recommends the {s} collection to everyone who likes things {a}.
    Measures {k}" from end to end.
    -
    This {h} is {a} and easy to look after.
    You are buying one {a} {h}.
    A {h} you will reach for every day.
    Our {a} {h} comes in its own box.
    What you get: the {h} as shown in the picture.
    Item type: {h}.
    -
    It goes well with a {a} {x}.
    The {x} in the picture is not included.
    Customers who bought this also looked at our {x}.
    You may need a {x} as well.
    Order it together with a {a} {x} and save.
    Theme: {x}.""",
    "de": """
    Versandkostenfrei ab {i} Euro.
    Lieferzeit etwa {j} Werktage.
    Die Serie {s} von {b} steht für Qualität.
    Erhältlich in {a}, {c} und weiteren Varianten.
    Artikelnummer {q}.
    Ein schönes Geschenk zu jedem Anlass.
    Maße: {i} x {k} cm.
    Bei Nichtgefallen nehmen wir die Ware innerhalb von {i} Tagen zurück.
    -
    Sie kaufen: {h}, {a}.
    Dieses Angebot: {h} wie auf dem Bild.
    Artikelart: {h}.
    Unser Angebot {h} kommt in einer eigenen Schachtel.
    -
    Passt gut zu {x}.
    {x} auf dem Bild ist nicht enthalten.
    Andere Kunden kauften auch {x}.
    Thema: {x}.""",
    "fr": """
    Livraison gratuite dès {i} euros d'achat.
    Expédié sous {j} jours ouvrés.
    La gamme {s} de {b} est réputée pour sa qualité.
    Disponible en {a}, {c} et d'autres versions.
    Référence {q}.
    Une idée de cadeau pour toutes les occasions.
    Dimensions : {i} x {k} cm.
    Retour possible sous {i} jours.
    -
    Vous achetez : {h}, {a}.
    L'article proposé : {h} comme sur la photo.
    Type d'article : {h}.
    Notre {h} est livré dans sa boîte.
    -
    Se marie bien avec : {x}.
    L'article {x} sur la photo n'est pas inclus.
    Les clients ont aussi acheté : {x}.
    Thème : {x}.""",
    "es": """
    Envío gratis a partir de {i} euros.
    Se envía en {j} días laborables.
    La línea {s} de {b} es conocida por su calidad.
    Disponible en {a}, {c} y otras versiones.
    Referencia {q}.
    Un regalo ideal para cualquier ocasión.
    Medidas: {i} x {k} cm.
    Devolución en {i} días.
    -
    Usted compra: {h}, {a}.
    El artículo es: {h} como en la foto.
    Tipo de artículo: {h}.
    Nuestro {h} viene en su caja.
    -
    Combina bien con: {x}.
    El artículo {x} de la foto no está incluido.
    Otros clientes compraron también: {x}.
    Tema: {x}.""",
    "it": """
    Spedizione gratuita oltre {i} euro.
    Spedito entro {j} giorni lavorativi.
    La linea {s} di {b} è nota per la qualità.
    Disponibile in {a}, {c} e altre versioni.
    Codice articolo {q}.
    Un'idea regalo per ogni occasione.
    Misure: {i} x {k} cm.
    Reso possibile entro {i} giorni.
    -
    State comprando: {h}, {a}.
    L'articolo è: {h} come nella foto.
    Tipo di articolo: {h}.
    Il nostro {h} arriva nella sua scatola.
    -
    Si abbina bene con: {x}.
    L'articolo {x} nella foto non è incluso.
    Altri clienti hanno comprato anche: {x}.
    Tema: {x}.""",
    "nl": """
    Gratis verzending vanaf {i} euro.
    Levertijd ongeveer {j} werkdagen.
    De lijn {s} van {b} staat bekend om kwaliteit.
    Verkrijgbaar in {a}, {c} en andere uitvoeringen.
    Artikelnummer {q}.
    Een leuk cadeau voor elke gelegenheid.
    Afmetingen: {i} x {k} cm.
    Niet goed? Retourneer binnen {i} dagen.
    -
    U koopt: {h}, {a}.
    Dit artikel is: {h} zoals op de foto.
    Soort artikel: {h}.
    Onze {h} komt in een eigen doos.
    -
    Past goed bij: {x}.
    De {x} op de foto is niet inbegrepen.
    Andere klanten kochten ook: {x}.
    Thema: {x}.""",
    "pl": """
    Darmowa dostawa od {i} złotych.
    Wysyłka w ciągu {j} dni roboczych.
    Linia {s} marki {b} słynie z jakości.
    Dostępny w wersji {a}, {c} i innych.
    Numer katalogowy {q}.
    Świetny prezent na każdą okazję.
    Wymiary: {i} x {k} cm.
    Zwrot możliwy w ciągu {i} dni.
    -
    Kupujesz: {h}, {a}.
    Przedmiot oferty: {h} jak na zdjęciu.
    Rodzaj produktu: {h}.
    Nasz produkt {h} przychodzi w pudełku.
    -
    Dobrze pasuje do: {x}.
    Widoczny na zdjęciu {x} nie jest dołączony.
    Inni klienci kupili też: {x}.
    Motyw: {x}.""",
    "ru": """
    Бесплатная доставка от {i} рублей.
    Отправка в течение {j} рабочих дней.
    Серия {s} от {b} известна своим качеством.
    Доступно в вариантах {a}, {c} и других.
    Артикул {q}.
    Отличный подарок на любой праздник.
    Размеры: {i} x {k} см.
    Возврат в течение {i} дней.
    -
    Вы покупаете: {h}, {a}.
    Предмет продажи: {h}, как на фото.
    Тип товара: {h}.
    Наш товар {h} приходит в коробке.
    -
    Хорошо сочетается с: {x}.
    {x} на фото в комплект не входит.
    Другие покупатели выбрали также: {x}.
    Тема: {x}.""",
    "ja": """
    {i}ドル以上のご注文で送料無料です。
    {j}営業日以内に発送いたします。
    {b}の{s}シリーズは品質で知られています。
    {a}、{c}などの種類があります。
    商品番号は{q}です。
    贈り物にも最適です。
    サイズは{i} x {k} cmです。
    {i}日以内なら返品できます。
    -
    こちらの商品は{a}{h}です。
    お届けするのは写真の{h}です。
    商品の種類：{h}。
    この{h}は専用の箱に入っています。
    -
    {x}ともよく合います。
    写真の{x}は含まれません。
    ほかのお客様は{x}も購入しています。
    テーマ：{x}。""",
    "zh": """
    满{i}元免运费。
    {j}个工作日内发货。
    {b}的{s}系列以质量著称。
    有{a}、{c}等多种款式。
    货号{q}。
    送礼的理想选择。
    尺寸：{i} x {k} 厘米。
    {i}天内可以退货。
    -
    您购买的是{a}{h}。
    本商品为图中的{h}。
    商品类型：{h}。
    这款{h}配有专用盒子。
    -
    与{x}搭配很好。
    图中的{x}不包括在内。
    其他顾客还购买了{x}。
    主题：{x}。""",
}
GIVEN_NAMES = """
    Ada Alan Amir Anna Arjun Astrid Bela Boris Carla Chen Clara Daniel Dara Elena Emil Erik Eva Farah
    Felix Fiona Georg Hana Hugo Ines Ivan Jana Jonas Julia Kai Karl Lea Leo Lina Lucas Maria Mark Mei
    Mila Nadia Nina Noah Olga Omar Paul Pia Rosa Ruth Sam Sara Sofia Theo Tomas Uma Vera Viktor Wanda
    Yuki Zoe""".split()


def _split(text: str, separator: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.strip().split(separator))


def _table(lines: str) -> list[tuple[str, ...]]:
    rows = [_split(line, "|") for line in _split(lines, "\n")]
    short = [row for row in rows if len(row) != len(LANGUAGES)]
    assert not short, short
    return rows


NOUNS: dict[str, list[tuple[str, ...]]] = {name: _table(lines) for name, lines in _NOUNS.items()}
ATTRIBUTES: list[tuple[str, ...]] = _table(_ATTRIBUTES)
COMPOUNDS = {
    language: tuple(_split(line, "|") for line in _split(text, "\n")) for language, text in _COMPOUNDS.items()
}
BOOK_TITLES = {
    language: _split(text.strip().replace("\n", "|"), "|") for language, text in _BOOK_TITLES.items()
}
BOOK_FORMATS = {language: _split(text, "|") for language, text in _BOOK_FORMATS.items()}
SENTENCES = {
    language: tuple(_split(kind, "\n") for kind in _split(text, "\n    -\n"))
    for language, text in _SENTENCES.items()
}
